"""The chat templates of a model: the usual one, and those with a name."""

from collections.abc import Mapping

from services.engine.model.vocabulary import Vocabulary
from services.target.chat import ChatError, ChatTemplate

_NONE = "the model has no chat template: send plain text"
# What a template that is asked for by nobody may be called.
_USUAL = ("", "default")
_FOR_TOOLS = "tool_use"


class ChatTemplates:
    """Finds the template for a chat. One that is not valid keeps nothing else from working."""

    def __init__(self, sources: Mapping[str, str], vocabulary: Vocabulary) -> None:
        """Compile what can be compiled, and find out what each template needs; `problems` says what cannot."""
        self._templates: dict[str, ChatTemplate] = {}
        self.problems: dict[str, str] = {}
        for name, source in sources.items():
            try:
                self._templates[name] = ChatTemplate(source, vocabulary)
                self._templates[name].needs.find()
            except ChatError as error:
                self.problems[name] = str(error)

    @property
    def has_usual(self) -> bool:
        """Whether a chat can be rendered that names no template."""
        return any(name in self._templates for name in _USUAL)

    @property
    def names(self) -> list[str]:
        """The names to choose from."""
        return sorted(name for name in self._templates if name)

    def choose(self, name: str, *, has_tools: bool) -> ChatTemplate:
        """Return the template of this name; without one the usual, or, as `transformers` does, the one for tools.

        Raises:
            ChatError: there is none, or it is not valid.
        """
        wanted = (name,) if name else (_FOR_TOOLS, *_USUAL) if has_tools else _USUAL
        for candidate in wanted:
            if candidate in self._templates:
                return self._templates[candidate]
            if candidate in self.problems:
                raise ChatError(self.problems[candidate])
        if not name:
            named = f"name one of its templates: {', '.join(self.names)}" if self.names else ""
            raise ChatError(f"the model has no usual chat template: {named}" if named else _NONE)
        known = ", ".join(self.names) or "none"
        raise ChatError(f"the model has no chat template called {name}, its named ones are: {known}")
