"""A model's files: opened, told apart, and refused where what they say cannot be true."""

import stat
from collections.abc import Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path
from types import TracebackType
from typing import Self

from services.engine.errors import ModelLoadError
from services.engine.model.gguf_header import MAGIC, Header, HeaderError, Tensor
from services.engine.model.guard import check_model

# llama.cpp counts parts with numbers of two bytes, and a name has five digits for them.
_MOST_PARTS = 2**16 - 1
_SPLIT_COUNT, _SPLIT_NUMBER, _SPLIT_TENSORS = "split.count", "split.no", "split.tensors.count"


class GgufFile:
    """The metadata of a model whose files were checked; tensors stay on disk. Use it in a `with` statement."""

    def __init__(self, path: Path) -> None:
        """Open `path` and look at all files of the model.

        A large model comes as NAME-00001-of-00003.gguf and so on, and is loaded by the name of the first part. Raises
        ModelLoadError for a file that is missing, unreadable, no GGUF file or cannot be true, and for a later part.
        """
        self.path = path
        self._map = _map(path)
        try:
            self.header = _header(path, self._map)
            self._parts = _part_paths(path, self.header)
            self.tensors = {tensor.name: tensor for tensor in _checked_tensors(self.header, self._parts)}
        except ModelLoadError:
            self._map.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._map.close()

    def text(self, key: str) -> str:
        """Return a text, empty when absent."""
        return self.header.text(key)

    def integers(self, key: str) -> list[int]:
        """Return a list of integers, with one element for a single number; empty when absent or of another type."""
        return self.header.integers(key)

    def integer(self, field: str, default: int) -> int:
        """Return a number of the model's architecture, of a list the first."""
        return self.header.integer(f"{self.text('general.architecture')}.{field}", default)

    def layers(self) -> list[dict[str, Tensor]]:
        """Return each layer's tensors by the names that they have in every layer."""
        layers: list[dict[str, Tensor]] = [{} for _ in range(self.integer("block_count", 0))]
        for name, tensor in self.tensors.items():
            block, _, place = name.partition(".")
            index, _, rest = place.partition(".")
            if block == "blk" and index.isdecimal() and int(index) < len(layers):
                layers[int(index)][rest] = tensor
        return layers

    def num_skipped_layers(self) -> int:
        """Return how many of the last layers only predict further tokens: llama.cpp does not load them."""
        return self.integer("nextn_predict_layers", 0)

    def skipped_bytes(self) -> int:
        """Return the size of the tensors that are not loaded."""
        layers = self.layers()
        skipped = layers[len(layers) - self.num_skipped_layers() :]
        return sum(tensor.num_bytes for layer in skipped for tensor in layer.values())

    def parts(self) -> list[Path]:
        """Return the files that the model consists of, this one first."""
        return self._parts


def _map(path: Path) -> mmap:
    """Map a file. Raises ModelLoadError for a path that is no readable GGUF file."""
    try:
        # Anything else could keep whoever opens it waiting.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelLoadError(f"cannot read model {path}: it is not a file")
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise ModelLoadError(f"{path} is not a GGUF file")
            return mmap(file.fileno(), 0, access=ACCESS_READ)
    except OSError as error:
        raise ModelLoadError(f"cannot read model {path}: {error.strerror}") from error


def _header(path: Path, data: mmap) -> Header:
    try:
        return Header(data)
    except HeaderError as error:
        raise _refusal(path, error) from error


def _refusal(path: Path, error: HeaderError) -> ModelLoadError:
    return ModelLoadError(f"cannot load model {path}: {error}")


def _part_paths(path: Path, header: Header) -> list[Path]:
    num_parts = header.integer(_SPLIT_COUNT, 1)
    if not 0 <= num_parts <= _MOST_PARTS:
        raise ModelLoadError(f"cannot load model {path}: {_SPLIT_COUNT} is {num_parts}: it must be 1 to {_MOST_PARTS}")
    if num_parts <= 1:
        return [path]
    first = _part_ending(0, num_parts)
    if not path.name.endswith(first):
        raise ModelLoadError(f"{path} is part of a model: name its first part, which ends in {first}")
    prefix = str(path).removesuffix(first)
    return [path, *(Path(prefix + _part_ending(number, num_parts)) for number in range(1, num_parts))]


def _part_ending(number: int, num_parts: int) -> str:
    return f"-{number + 1:05d}-of-{num_parts:05d}.gguf"


def _checked_tensors(header: Header, paths: Sequence[Path]) -> Sequence[Tensor]:
    """Return the tensors of all parts. Raises ModelLoadError for a model that cannot be what the first one says."""
    tensors = list(header.tensors)
    for number, path in enumerate(paths[1:], 1):
        with _map(path) as data:
            part = _header(path, data)
            found, is_short = part.numbers(_SPLIT_NUMBER), part.is_short(_SPLIT_NUMBER)
        # llama.cpp takes a number of two bytes only.
        if found != [number] or not is_short:
            raise ModelLoadError(f"cannot load model {path}: {_SPLIT_NUMBER} is {found}: it must be {number}")
        tensors += part.tensors
    expected = header.integer(_SPLIT_TENSORS, len(tensors))
    if len(paths) > 1 and expected != len(tensors):
        raise ModelLoadError(
            f"cannot load model {paths[0]}: {_SPLIT_TENSORS} is {expected}: the parts have {len(tensors)} tensors"
        )
    try:
        check_model(header, tensors)
    except HeaderError as error:
        raise _refusal(paths[0], error) from error
    return tensors
