import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator

from outrider.v1 import generation_pb2
from tools.picture import picture

SVG = "{http://www.w3.org/2000/svg}"


async def answer() -> AsyncIterator[generation_pb2.GenerateResponse]:
    """One draft token accepted, one recovered."""
    chunk = generation_pb2.GenerateChunk()
    chunk.tokens.add(text="<accepted>", origin=generation_pb2.TOKEN_ORIGIN_ACCEPTED)
    chunk.tokens.add(text="recovered", origin=generation_pb2.TOKEN_ORIGIN_RECOVERED)
    yield generation_pb2.GenerateResponse(chunk=chunk)
    summary = generation_pb2.GenerateSummary(
        usage=generation_pb2.Usage(num_generated_tokens=2),
        timings=generation_pb2.GenerationTimings(total_ms=10),
        speculation=generation_pb2.SpeculationStatistics(num_cycles=1, num_draft_tokens=2, num_accepted_tokens=1),
    )
    yield generation_pb2.GenerateResponse(summary=summary)


async def test_the_picture_is_what_a_terminal_shows() -> None:
    drawn = ET.fromstring(await picture(answer(), "def f():"))
    texts = {"".join(each.itertext()).replace("\xa0", " ").strip(): each for each in drawn.iter(f"{SVG}text")}
    assert "$ outrider generate 'def f():'" in texts
    assert {"def f():", "<accepted>", "recovered"} <= set(texts)
    assert any(text.startswith("2 tokens, 200.0 tokens/s, 50% of 2 draft tokens accepted") for text in texts)
    styles = [texts[text].get("class") for text in ("def f():", "<accepted>", "recovered")]
    assert len(set(styles)) == 3


async def test_the_picture_loads_nothing_from_elsewhere() -> None:
    assert "url(http" not in (await picture(answer(), "x")).replace('"', "").replace("'", "")
