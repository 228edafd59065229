"""The tokens of a prompt as the target scores them, for a client that asks."""

from collections.abc import Sequence

from orchestrator.generation.text import Detokenizer
from outrider.v1 import common_pb2, generation_pb2


class PromptReporter:
    """Makes reports of one prompt, whose tokens are scored part by part."""

    def __init__(self, prompt: Sequence[int], token_bytes: Sequence[bytes]) -> None:
        """`token_bytes[i]` is what token i adds to the text."""
        self._prompt = prompt
        self._detokenizer = Detokenizer(token_bytes)
        self._num_told = 0

    def report(self, scores: Sequence[common_pb2.LogProbabilities]) -> generation_pb2.PromptReport:
        """Return the report of the next tokens, as many as there are scores; the first token, which has none, beside.

        What is left of a character that the prompt does not end is told with its last token.
        """
        report = generation_pb2.PromptReport()
        if not self._num_told:
            self._tell(report, None)
        for each in scores:
            self._tell(report, each)
        if self._num_told == len(self._prompt):
            report.tokens[-1].text += self._detokenizer.finish()
        return report

    def _tell(self, report: generation_pb2.PromptReport, score: common_pb2.LogProbabilities | None) -> None:
        token = self._prompt[self._num_told]
        report.tokens.add(token=token, text=self._detokenizer.feed(token), log_probabilities=score)
        self._num_told += 1
