"""A request as its draft sees it, which may lack some of the target's token ids."""

import asyncio
from collections.abc import Iterable

from outrider.v1 import common_pb2
from services.session.sequence import TokenSequence

# Tokens whose digests are taken in a thread: they are some milliseconds of work.
_MANY = 8192
_MOST_SUPPRESSED = 4096


class DraftView:
    """One request's sequence and sampling parameters, with nothing in them that the draft does not know.

    A stand-in takes the place of every id that the draft lacks, so that positions, and with them the noise, stay those
    of the target.
    """

    def __init__(self, sampling: common_pb2.Sampling, suppressed: Iterable[int], stand_in: int) -> None:
        """`suppressed` are the ids that the target's file forbids, `stand_in` is an id of the target's."""
        self._sampling = sampling
        self._suppressed = frozenset(suppressed)
        self._stand_in = stand_in
        self._model = common_pb2.ModelInfo()
        self._num_seen = 0
        self._own: TokenSequence | None = None
        self.sampling = sampling

    def look_from(self, model: common_pb2.ModelInfo) -> None:
        """See the request from now on as the draft that serves `model`."""
        self._model = model
        self._num_seen, self._own = 0, None
        self.sampling = self._known_sampling()

    async def sequence(self, sequence: TokenSequence) -> TokenSequence:
        """Return the sequence, or one as long with stand-ins. It only ever grows from one call to the next."""
        num_new = len(sequence) - (self._num_seen if self._own is None else len(self._own))
        if num_new > _MANY:
            return await asyncio.to_thread(self._take, sequence)
        return self._take(sequence)

    def _take(self, sequence: TokenSequence) -> TokenSequence:
        size = self._model.vocabulary_size
        if self._own is None:
            if max(sequence.tokens[self._num_seen :], default=0) < size:
                self._num_seen = len(sequence)
                return sequence
            self._own = TokenSequence()
        stand_in = self._stand_in if self._stand_in < size else 0
        new = sequence.tokens[len(self._own) :]
        return self._own.extend(token if token < size else stand_in for token in new)

    def _known_sampling(self) -> common_pb2.Sampling:
        size = self._model.vocabulary_size
        known = common_pb2.Sampling()
        known.CopyFrom(self._sampling)
        for token in [token for token in known.logit_bias if token >= size]:
            del known.logit_bias[token]
        suppressed = self._suppressed.union(known.suppressed_tokens).difference(self._model.suppressed_tokens)
        # More of them are refused. A draft of one that it is not told of is a draft in vain.
        known.suppressed_tokens[:] = sorted(token for token in suppressed if token < size)[:_MOST_SUPPRESSED]
        return known
