"""Settings of the orchestrator."""

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from services.frame.program.address import check_listening, split_addresses, split_host_and_port
from services.frame.program.settings import Address, Addresses, PeerSettings, ServerSettings
from services.frame.rpc.limits import MAX_DRAFT_TOKENS

_ORIGIN = re.compile(r"\*|https?://[^/?#@\s,]+")
# ENABLE_SPECULATIVE, as a choice of the drafter.
_SWITCHES = {"true": "auto", "1": "auto", "yes": "auto", "on": "auto"} | {
    "false": "none",
    "0": "none",
    "no": "none",
    "off": "none",
}


MetricsPage = Literal["on", "open", "off"]
DrafterName = Literal["auto", "remote", "ngram", "prediction", "none"]


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _check_trace_url(url: str) -> str:
    if url and not (url.startswith(("http://", "https://")) and "{trace_id}" in url):
        raise ValueError("it is to be an http or https address with {trace_id} in it")
    return url


def _read_switch(value: object) -> object:
    return _SWITCHES.get(value.lower(), value) if isinstance(value, str) else value


class OrchestratorSettings(ServerSettings, PeerSettings, env_prefix="OUTRIDER_ORCHESTRATOR_"):
    """Flags of `outrider-orchestrator`, and variables that start with OUTRIDER_ORCHESTRATOR_."""

    program: ClassVar[str] = "outrider-orchestrator"
    familiar_names: ClassVar[Mapping[str, str]] = {
        "ENABLE_SPECULATIVE": "drafter",
        "SPECULATION_DEPTH": "max_draft_tokens",
    }
    http: Annotated[str, AfterValidator(check_listening)] = Field(
        "", description="HOST:PORT to serve HTTP on too; port 0 takes a free one, which is printed; empty is none"
    )
    http_names: str = Field(
        "", description="names beside addresses that HTTP is asked by, with commas between; needed without keys alone"
    )
    http_origins: str = Field(
        "", description="origins of web pages that may ask over HTTP, with commas between; * is every page"
    )
    http_metrics: MetricsPage = Field(
        "on", description="Prometheus' page at /metrics: on, with a key where others need one; open, without; off"
    )
    http_vllm_metrics: bool = Field(True, description="tell on that page by the names of vLLM too what it would tell")
    trace_url: Annotated[str, AfterValidator(_check_trace_url)] = Field(
        "", description="where a trace is seen, as in http://localhost:16686/trace/{trace_id}; HTTP answers tell it"
    )
    port: int = Field(50050, ge=0, le=65535, description="port to listen on; 0 takes a free one, which is printed")
    target: Address = Field("127.0.0.1:50052", min_length=1, description="address of the target service")
    draft: Addresses = Field(
        "", description="address of the draft service, or of several, with commas between; empty is plain decoding"
    )
    drafter: Annotated[DrafterName, BeforeValidator(_read_switch)] = Field(
        "auto",
        description="who drafts: the draft service (remote), lookup in the text (ngram), predictions alone, none, or "
        "all (auto)",
    )
    max_draft_tokens: int = Field(
        16, ge=0, le=MAX_DRAFT_TOKENS, description="most draft tokens of a cycle where a request fixes none"
    )
    min_joint_confidence: float = Field(
        0.0,
        ge=0,
        le=1,
        description="the draft service stops before a token with which the product of its probabilities is lower",
    )
    ngram_min: int = Field(4, ge=3, le=64, description="tokens of the shortest earlier match that lookup takes")
    ngram_max: int = Field(12, ge=3, le=64, description="tokens of an earlier match that lookup compares at most")
    draft_timeout_s: float = Field(1.0, gt=0, le=60, description="seconds that a draft is waited for")
    draft_retry_s: float = Field(1.0, gt=0, le=60, description="seconds between tries to reach a draft that failed")
    target_patience_s: float = Field(10.0, ge=0, le=600, description="seconds that a target that is away is waited for")
    unread_timeout_s: float = Field(
        60.0, gt=0, le=3600, description="seconds that a client may leave text unread before its generation is ended"
    )

    @property
    def draft_addresses(self) -> list[str]:
        """The addresses of --draft, in their order."""
        return split_addresses(self.draft)

    @property
    def http_name_list(self) -> list[str]:
        """The names of --http-names."""
        return _listed(self.http_names)

    @property
    def http_origin_list(self) -> list[str]:
        """The origins of --http-origins."""
        return _listed(self.http_origins)

    @field_validator("http_origins")
    @classmethod
    def _check_origins(cls, origins: str) -> str:
        if not all(_ORIGIN.fullmatch(origin) for origin in _listed(origins)):
            raise ValueError("an origin is http://NAME or https://NAME, with :PORT where it has one, and no path; or *")
        return origins

    @model_validator(mode="after")
    def _check_http(self) -> Self:
        if self.http:
            self.check_reach("--http", split_host_and_port(self.http)[0])
        return self

    @model_validator(mode="after")
    def _check_ngrams(self) -> Self:
        if self.ngram_min > self.ngram_max:
            raise ValueError("--ngram-min is above --ngram-max")
        return self
