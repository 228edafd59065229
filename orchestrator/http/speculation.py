"""How a request is to be speculated for: the fields that every API takes as `outrider`."""

from typing import Literal

from pydantic import Field

from orchestrator.http.exchange.reading import Fields, Uint32
from outrider.v1 import generation_pb2


class SpeculationFields(Fields):
    """Speculation of one request. It changes the speed, never the text."""

    mode: Literal["auto", "off", "fixed"] | None = Field(
        None, description="as many draft tokens as pay, none, or so many"
    )
    num_draft_tokens: Uint32 | None = Field(None, description="draft tokens of each cycle; alone it means mode fixed")
    max_draft_tokens: Uint32 | None = Field(None, description="most draft tokens of a cycle in mode auto")
    drafter: Literal["auto", "remote", "ngram", "prediction", "none"] | None = Field(None, description="who proposes")
    min_joint_confidence: float | None = Field(None, description="below it the draft service stops")
    require_exact: bool | None = Field(None, description="refuse rather than answer what is not exact to the bit")

    def fill(self, request: generation_pb2.GenerateRequest) -> None:
        """Put into a request what these fields mean."""
        speculation = request.speculation
        mode = self.mode or ("fixed" if self.num_draft_tokens is not None else None)
        if mode is not None:
            speculation.mode = generation_pb2.SpeculationMode.Value(f"SPECULATION_MODE_{mode.upper()}")
        if self.drafter is not None:
            speculation.drafter = generation_pb2.Drafter.Value(f"DRAFTER_{self.drafter.upper()}")
        speculation.num_draft_tokens = self.num_draft_tokens or 0
        speculation.max_draft_tokens = self.max_draft_tokens or 0
        if self.min_joint_confidence is not None:
            speculation.min_joint_confidence = self.min_joint_confidence
        request.require_exact = bool(self.require_exact)


class ReportFields(SpeculationFields):
    """Speculation of one request, of which each cycle can be told."""

    report_cycles: bool | None = Field(None, description="tell what each cycle did, in the choices of the answer")

    def fill(self, request: generation_pb2.GenerateRequest) -> None:
        """Put into a request what these fields mean."""
        super().fill(request)
        request.report_cycles = bool(self.report_cycles)
