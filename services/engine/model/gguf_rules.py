"""What each number of a model's header must be, as a table; `guard` says how they must fit each other."""

from collections.abc import Callable, Iterator, Sequence

from services.engine.model.gguf_header import TEXT, Header, HeaderError, Number, Tensor

_MOST_LAYERS = 512
_MOST_EXPERTS = 1024
_MOST_HEADS = _LONGEST_HEAD = 1 << 16
_MOST_TOKENS = 1 << 24
# Above it a number of 4 bytes is negative in llama.cpp's hands.
_MOST = 2**31 - 1


class Facts:
    """A header with the tensors of all parts of the model; fields are named without the architecture."""

    def __init__(self, header: Header, tensors: Sequence[Tensor]) -> None:
        self.header = header
        self.architecture = header.text("general.architecture")
        self.tensors = {tensor.name: tensor for tensor in tensors}

    @property
    def num_layers(self) -> int:
        """The number of layers, 0 when absent."""
        return self.integer("block_count", 0)

    def key(self, field: str) -> str:
        """Return the whole name of a field."""
        return f"{self.architecture}.{field}"

    def numbers(self, field: str) -> list[Number]:
        """Return the numbers of a field, none when absent. Raises HeaderError for a text."""
        key = self.key(field)
        if key in self.header.fields and self.header.fields[key].kind == TEXT:
            raise HeaderError(f"{key} is a text: it must be a number")
        return self.header.numbers(key)

    def integer(self, field: str, default: int) -> int:
        """Return a single whole number, of a list the first."""
        return self.header.integer(self.key(field), default)

    def by_layer(self, field: str, default: int) -> list[int]:
        """Return a whole number for each layer. The length of lists must have been checked."""
        values = self.header.integers(self.key(field)) or [default]
        return values if len(values) > 1 else values * self.num_layers

    def head_size(self) -> int:
        """Return the length of a head's keys, 0 where there is no attention in the first layer."""
        num_heads = self.integer("attention.head_count", 0)
        usual = self.integer("embedding_length", 0) // num_heads if num_heads else 0
        return self.integer("attention.key_length", usual) if num_heads else 0


# Returns what a number must be, as words of a sentence; nothing where it is that.
Rule = Callable[[Facts, Number], str]


def between(least: int, most: int) -> Rule:
    """A whole number of this range."""

    def check(_: Facts, number: Number) -> str:
        return "" if isinstance(number, int) and least <= number <= most else f"a whole number, {least} to {most}"

    return check


def up_to(field: str) -> Rule:
    """A whole number that is not larger than another field."""

    def check(facts: Facts, number: Number) -> str:
        most = facts.integer(field, 0)
        return "" if isinstance(number, int) and 0 <= number <= most else f"0 to {most}, which is {field}"

    return check


def below(field: str) -> Rule:
    """A whole number that is smaller than another field."""

    def check(facts: Facts, number: Number) -> str:
        limit = facts.integer(field, 0)
        return "" if isinstance(number, int) and 0 <= number < limit else f"below {limit}, which is {field}"

    return check


def rotated(kind: str) -> Rule:
    """How many numbers of a head are rotated, two at a time; `kind` tells layers with a window from others."""

    def check(facts: Facts, number: Number) -> str:
        size = facts.integer(f"attention.key_length{kind}", facts.head_size())
        if isinstance(number, int) and number >= 0 and not number % 2 and (number <= size or not size):
            return ""
        return f"even, and at most {size}, the length of a head"

    return check


def positive(_: Facts, number: Number) -> str:
    """A number above 0."""
    return "" if number > 0 else "more than 0"


def natural(_: Facts, number: Number) -> str:
    """A number that is not below 0."""
    return "" if number >= 0 else "0 or more"


def group_count(facts: Facts, number: Number) -> str:
    """What states are parted into, but for the one architecture that has them in one piece."""
    return "" if number > 0 or facts.architecture == "plamo2" else "more than 0"


def epsilon(_: Facts, number: Number) -> str:
    """What keeps a norm from dividing by 0."""
    return "" if 0 < number < 1 else "between 0 and 1"


_RULES: Sequence[tuple[str, Rule]] = (
    # The first ones are what others are compared with.
    ("block_count", between(1, _MOST_LAYERS)),
    ("embedding_length", between(1, _MOST)),
    ("attention.head_count", between(0, _MOST_HEADS)),
    ("attention.head_count_kv", between(0, _MOST_HEADS)),
    ("attention.key_length", between(1, _LONGEST_HEAD)),
    ("attention.value_length", between(1, _LONGEST_HEAD)),
    ("attention.key_length_swa", between(1, _LONGEST_HEAD)),
    ("attention.value_length_swa", between(1, _LONGEST_HEAD)),
    ("attention.sliding_window", between(0, _MOST)),
    ("attention.shared_kv_layers", below("block_count")),
    ("context_length", between(1, _MOST)),
    ("expert_count", between(0, _MOST_EXPERTS)),
    ("expert_used_count", between(0, _MOST_EXPERTS)),
    ("expert_group_count", between(0, _MOST_EXPERTS)),
    ("expert_feed_forward_length", between(0, _MOST)),
    ("feed_forward_length", between(0, _MOST)),
    ("leading_dense_block_count", up_to("block_count")),
    ("n_deepstack_layers", up_to("block_count")),
    ("nextn_predict_layers", up_to("block_count")),
    ("rope.dimension_count", rotated("")),
    ("rope.dimension_count_swa", rotated("_swa")),
    ("rope.dimension_sections", between(0, _LONGEST_HEAD)),
    ("rope.freq_base", positive),
    ("rope.freq_base_swa", positive),
    ("rope.scaling.factor", natural),
    ("rope.scale_linear", natural),
    ("vocab_size", between(1, _MOST_TOKENS)),
    ("attention.layer_norm_epsilon", epsilon),
    ("attention.layer_norm_rms_epsilon", epsilon),
    ("attention.group_norm_epsilon", epsilon),
    # Some architectures divide by these.
    ("attention.group_norm_groups", positive),
    ("attention.indexer.block_size", positive),
    ("attention.indexer.kpool", positive),
    ("attention.output_group_count", positive),
    ("attention.relative_buckets_count", positive),
    ("attn_res.block_size", positive),
    ("experts_per_group", positive),
    ("full_attention_interval", positive),
    ("hyper_connection.count", positive),
    ("kda.head_dim", positive),
    ("num_loops", positive),
    ("shortconv.l_cache", positive),
    ("ssm.conv_kernel", positive),
    ("ssm.group_count", group_count),
    ("ssm.inner_size", positive),
    ("ssm.state_size", positive),
    ("ssm.time_step_rank", positive),
    ("wkv.head_size", positive),
)


def broken_rules(facts: Facts) -> Iterator[str]:
    """Say which numbers are not what they must be."""
    for field, rule in _RULES:
        for number in facts.numbers(field):
            if must := rule(facts, number):
                yield f"{facts.key(field)} is {number}: it must be {must}"
