"""How models write calls of tools: the formats that are known, and which of them a template writes itself."""

import re
from dataclasses import dataclass

from outrider.v1.target_pb2 import ToolCallFormat
from services.target.template_needs import PROBE_KEY, PROBE_NAME


@dataclass(frozen=True)
class _Known:
    """A format, and others that the same models write at times. A call of it `follows` something, if need be."""

    format: ToolCallFormat
    others: tuple[ToolCallFormat, ...] = ()
    follows: str = ""


def _json(opens: str, closes: str = "") -> _Known:
    return _Known(ToolCallFormat(opens=opens, closes=closes))


def _tags(
    opens: str,
    closes: str,
    call: tuple[str, str],
    key: tuple[str, str],
    value: tuple[str, str],
    *,
    name_closes: str = "",
) -> ToolCallFormat:
    return ToolCallFormat(
        opens=opens,
        closes=closes,
        call_opens=call[0],
        call_closes=call[1],
        name_closes=name_closes,
        key_opens=key[0],
        key_closes=key[1],
        value_opens=value[0],
        value_closes=value[1],
    )


def _functions(opens: str, closes: str) -> ToolCallFormat:
    return _tags(
        opens,
        closes,
        ("<function=", "</function>"),
        ("<parameter=", ">"),
        ("", "</parameter>"),
        name_closes=">",
    )


def _invocations(opens: str, closes: str, mark: str = "") -> ToolCallFormat:
    return _tags(
        opens,
        closes,
        (f'<{mark}invoke name="', f"</{mark}invoke>"),
        (f'<{mark}parameter name="', '"'),
        (">", f"</{mark}parameter>"),
        name_closes='">',
    )


def _arguments(suffix: str = "", name_closes: str = "") -> ToolCallFormat:
    return _tags(
        f"<tool_call{suffix}>",
        f"</tool_call{suffix}>",
        ("", ""),
        (f"<arg_key{suffix}>", f"</arg_key{suffix}>"),
        (f"<arg_value{suffix}>", f"</arg_value{suffix}>"),
        name_closes=name_closes,
    )


# DeepSeek's wide bar.
_BAR = "\uff5c"


def _deepseek(before_name: str = "", after_name: str = "", before_end: str = "") -> _Known:
    def tag(name: str) -> str:
        return f"<{_BAR}tool▁{name}{_BAR}>"

    return _Known(
        ToolCallFormat(
            opens=tag("calls▁begin"),
            closes=tag("calls▁end"),
            call_opens=tag("call▁begin") + (before_name and before_name + tag("sep")),
            call_closes=before_end + tag("call▁end"),
            name_closes=after_name or tag("sep"),
        )
    )


_KNOWN = (
    # Hermes, Qwen, Granite 4 and many others.
    _json("<tool_call>", "</tool_call>"),
    # Qwen 3 Coder, Nemotron 3, StepFun; the first of them forgets the outer tag at times.
    _Known(_functions("<tool_call>", "</tool_call>"), (_functions("", ""),)),
    _Known(_functions("<seed:tool_call>", "</seed:tool_call>")),
    # Mistral, before and after 2025.
    _json("[TOOL_CALLS]"),
    _Known(ToolCallFormat(opens="[TOOL_CALLS]", name_closes="[ARGS]", beside=["[CALL_ID]"])),
    # Llama 3.
    _Known(
        ToolCallFormat(),
        (ToolCallFormat(opens="<|python_tag|>"),),
        follows="<|end_header_id|>\n\n",
    ),
    # DeepSeek 3.1, R1, and from 3.2 on.
    _deepseek(),
    _deepseek(before_name="function", after_name="\n```json\n", before_end="```"),
    *(
        _Known(_invocations(f"<{_BAR}DSML{_BAR}{calls}>", f"</{_BAR}DSML{_BAR}{calls}>", f"{_BAR}DSML{_BAR}"))
        for calls in ("function_calls", "tool_calls")
    ),
    # gpt-oss, with the two places in which it says whom it calls.
    _Known(
        ToolCallFormat(opens="to=functions.", name_closes="<|message|>", call_closes="<|call|>"),
        (
            ToolCallFormat(
                opens="<|channel|>commentary to=functions.", name_closes="<|message|>", call_closes="<|call|>"
            ),
        ),
    ),
    # Kimi K2.
    _Known(
        ToolCallFormat(
            opens="<|tool_calls_section_begin|>",
            closes="<|tool_calls_section_end|>",
            call_opens="<|tool_call_begin|>functions.",
            call_closes="<|tool_call_end|>",
            name_closes="<|tool_call_argument_begin|>",
        )
    ),
    # GLM, Laguna, Ling; Hunyuan.
    _Known(_arguments()),
    _Known(_arguments(":opensource", "<tool_sep:opensource>")),
    # MiniMax.
    _json("<tool_calls>", "</tool_calls>"),
    _Known(_invocations("<minimax:tool_call>", "</minimax:tool_call>")),
    # Muse.
    _Known(_invocations("<atem:function_calls>", "</atem:function_calls>", "atem:")),
    # MiniCPM.
    _Known(
        _tags(
            "",
            "",
            ('<function name="', "</function>"),
            ('<param name="', '">'),
            ("", "</param>"),
            name_closes='">',
        )
    ),
    # Functionary 3.1.
    _Known(ToolCallFormat(call_opens="<function=", call_closes="</function>", name_closes=">")),
    # Command R 7B, Nemotron 2, GigaChat 3, Firefunction 2.
    _json("<|START_ACTION|>", "<|END_ACTION|>"),
    _json("<TOOLCALL>", "</TOOLCALL>"),
    _json("<|function_call|>"),
    _json("functools"),
)
# Of templates that show no call: by a spelling in them.
_BY_SPELLING = {"<|tool_call|>": ToolCallFormat(opens="<|tool_call|>")}  # Granite 3


def tool_call_formats(source: str, rendered: str) -> list[ToolCallFormat]:
    """Return how calls are written by a model whose template is of this source, and has rendered a probe of a call."""
    for known in _KNOWN:
        if re.search(re.escape(known.follows) + _pattern(known.format), rendered):
            return [known.format, *known.others]
    return [format_ for spelling, format_ in _BY_SPELLING.items() if spelling in source]


def _pattern(form: ToolCallFormat) -> str:
    """Return a regular expression for the beginning of the probe of a call."""
    opens = rf"{re.escape(form.opens)}\s*{re.escape(form.call_opens)}\s*"
    if not form.name_closes and not form.key_opens:
        return opens + rf'(?:\[\s*)?\{{[^{{}}]*"(?:tool_)?name": "{PROBE_NAME}", "(?:arguments|parameters)": \{{'
    follows = re.escape(form.key_opens) + PROBE_KEY if form.key_opens else r"\{"
    return opens + rf"{PROBE_NAME}[^{{}}]{{0,96}}?{re.escape(form.name_closes)}\s*{follows}"
