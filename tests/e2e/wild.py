"""A server that says whatever it likes, in the text of a model as in names and reasons."""

from collections.abc import AsyncIterator

from outrider.v1 import common_pb2, generation_pb2, generation_pb2_grpc
from services.frame.rpc.errors import abort, invalid_argument
from services.frame.rpc.handlers import RpcContext

# What acts on a terminal.
ACTING = [*map(chr, [*range(9), *range(0xB, 0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)])]
HARMLESS = ["é", "日本語", "👩\u200d💻", "\t", "x" * 5000, "[red]", ":smile:", "\n", "\ufffd"]
TOKENS = [*ACTING, *HARMLESS]
SHOWN = "".join((f"\\x{ord(each):02x}" if each < "\u0100" else f"\\u{ord(each):04x}") for each in ACTING)
NAME = "[red]\x1b[31m\x9b31m:smile:\u202e日"
NAME_SHOWN = "[red]\\x1b[31m\\x9b31m:smile:\\u202e日"


class Wild(generation_pb2_grpc.GenerationServiceServicer):
    """Answers with what terminals obey, and refuses the prompt `x` with it."""

    async def Generate(
        self, request: generation_pb2.GenerateRequest, context: RpcContext
    ) -> AsyncIterator[generation_pb2.GenerateResponse]:
        if request.text == "x":
            await abort(context, invalid_argument("INVALID_REQUEST", "text", f"not {NAME}\nnor that"))
        tokens = [generation_pb2.GeneratedToken(text=text, origin=generation_pb2.TOKEN_ORIGIN_BONUS) for text in TOKENS]
        chunk = generation_pb2.GenerateChunk(text="".join(TOKENS), tokens=tokens)
        yield generation_pb2.GenerateResponse(chunk=chunk)
        counts = generation_pb2.SpeculationStatistics(num_cycles=2, num_draft_tokens=4, num_accepted_tokens=1)
        yield generation_pb2.GenerateResponse(
            summary=generation_pb2.GenerateSummary(
                usage=generation_pb2.Usage(num_generated_tokens=len(TOKENS)),
                timings=generation_pb2.GenerationTimings(total_ms=1),
                speculation=counts,
            )
        )

    async def GetStatus(
        self, request: generation_pb2.GetStatusRequest, context: RpcContext
    ) -> generation_pb2.GetStatusResponse:
        model = common_pb2.ModelInfo(name=NAME, has_chat_template=True)
        return generation_pb2.GetStatusResponse(
            target=generation_pb2.ServiceStatus(address="there:1", is_available=True, model=model),
            draft=generation_pb2.ServiceStatus(address="there:2", reason=f"{NAME}\nit is away"),
        )
