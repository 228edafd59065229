"""Parts of texts, and the text that is expected."""

from typing import Literal

from orchestrator.http.exchange.reading import Fields, Many


class TextPart(Fields):
    """A part of a content."""

    type: Literal["text"]
    text: str


class Prediction(Fields):
    """The text that is expected as the answer: what of it is right comes quicker."""

    type: Literal["content"]
    content: str | Many[TextPart]

    @property
    def text(self) -> str:
        """All of it."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
