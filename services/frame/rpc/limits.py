"""How much may be in a message: what is larger gRPC refuses, with a status of its own and no reason."""

# Draft tokens that a service can be set to take in one request.
MAX_DRAFT_TOKENS = 64
# Most probable tokens that a request may ask for at each position.
MAX_LOG_PROBABILITIES = 20
# Tokens of a context that a request may have scored: with all these, their answer fits into the smallest messages.
MAX_SCORED_TOKENS = 128
# What is in a message beside ids: names, digests, a draft, what traces it.
_BESIDE_BYTES = 8192
_BITS_OF_A_BYTE = 7


def most_tokens(num_bytes: int, vocabulary_size: int) -> int:
    """Return how many ids of a vocabulary always fit into a message of `num_bytes`."""
    bytes_of_an_id = max(1, -(-(vocabulary_size - 1).bit_length() // _BITS_OF_A_BYTE))
    return max(0, num_bytes - _BESIDE_BYTES) // bytes_of_an_id
