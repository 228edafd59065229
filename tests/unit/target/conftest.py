import pytest

from services.engine.model.model import Model
from services.engine.model.vocabulary import Vocabulary
from tests.foreign_models import llama
from tests.unit.target.chats import tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(llama(tmp_path_factory.mktemp("chat") / "model.gguf", tokenizer=tokenizer()))


@pytest.fixture(scope="module")
def vocabulary(model: Model) -> Vocabulary:
    return model.vocabulary
