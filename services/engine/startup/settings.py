"""Settings that both services share: the model and how it is run."""

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from services.frame.program.settings import FileName, ServerSettings
from services.frame.rpc.limits import MAX_DRAFT_TOKENS

FlashAttention = Literal["auto", "on", "off"]
_SWITCH = {"true": "on", "1": "on", "yes": "on", "false": "off", "0": "off", "no": "off"}
_IDS = re.compile(r"[0-9]{1,9}(,[0-9]{1,9})*")
# Most rows that exact mode adds to a draft.
_MOST_PADDING = 16


class EngineSettings(ServerSettings):
    """A server with a model behind it."""

    model: FileName = Field(description="GGUF file to serve")
    slots: int = Field(8, ge=1, le=256, description="sessions cached at a time")
    context: int = Field(2048, ge=32, le=1 << 20, description="tokens of context of each slot")
    threads: int = Field(
        0, ge=0, le=1024, description="threads of a decode; 0 takes the cores that affinity and CPU quota give"
    )
    core_lock: str = Field(
        "auto",
        min_length=1,
        description="file that is locked during decodes, for turns on the same cores; auto: one for these; off: none",
    )
    gpu_layers: int = Field(
        -1,
        ge=-1,
        # llama.cpp counts in 32 bits.
        le=1 << 16,
        description="layers on the GPU; -1 takes as many as its free memory holds, none without a GPU",
    )
    flash_attention: FlashAttention = Field(
        "auto",
        description="auto: on a GPU, and on a CPU where that is measured to be quicker; exact mode goes without it",
    )
    batch_rows: int = Field(
        0,
        ge=0,
        le=1 << 16,
        description="most rows of one decode; 0 takes 2048 where their logits are small, else 1024 or 512",
    )
    prefill_rows: int = Field(
        0, ge=0, description="most prompt rows in a decode that others wait for; 0 takes what four one-row decodes take"
    )
    max_queued: int = Field(256, ge=1, description="requests that may wait before more are refused")
    checkpoint_mib: int = Field(
        -1,
        ge=-1,
        le=1 << 20,
        description="MiB of older states of a recurrent or hybrid model; -1 has room for four a slot, and snapshots; "
        "0 keeps none",
    )
    end_tokens: str = Field("", description="ids that end a generation beside the model's own, with commas between")
    max_draft_tokens: int = Field(16, ge=0, le=MAX_DRAFT_TOKENS, description="most draft tokens of one request")

    @field_validator("flash_attention", mode="before")
    @classmethod
    def _understand_switch(cls, value: object) -> object:
        """Take what switches take in the environment, as this was one."""
        return _SWITCH.get(str(value).lower(), value)

    @field_validator("end_tokens")
    @classmethod
    def _check_end_tokens(cls, ids: str) -> str:
        if ids and not _IDS.fullmatch(ids):
            raise ValueError("ids of tokens are whole numbers with commas between, as in 2,32007")
        return ids

    @property
    def end_token_ids(self) -> frozenset[int]:
        """The ids of --end-tokens."""
        return frozenset(map(int, self.end_tokens.split(","))) if self.end_tokens else frozenset()

    @model_validator(mode="after")
    def _check_batch_rows(self) -> Self:
        fewest = self.max_draft_tokens + _MOST_PADDING
        if 0 < self.batch_rows < fewest:
            raise ValueError(f"--batch-rows must be 0 or at least {fewest}: a whole draft is verified in one decode")
        return self
