"""A server with a model behind it: what the draft service and the target service have in common."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence

from outrider.v1 import common_pb2, model_pb2_grpc
from services.engine.capacity import check_memory, rows_worth
from services.engine.engine import Engine
from services.engine.errors import ModelLoadError
from services.engine.exact import Exactness
from services.engine.instruments import EngineInstruments
from services.engine.model import Model
from services.engine.model_service import ModelServicer, describe, digest_of_file
from services.engine.runtime import LlamaRuntime, Runtime, RuntimeOptions
from services.engine.settings import EngineSettings
from services.frame.server import FrameServer
from services.frame.startup import StartupError

_log = logging.getLogger(__name__)
MODEL_SERVICE = "outrider.v1.ModelService"


class ModelApplication(ABC):
    """Loads the model, starts the engine, registers ModelService; the subclass registers its own service."""

    service_names: Sequence[str]

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.model: Model | None = None
        self.engine: Engine | None = None
        self.exactness: Exactness | None = None
        self.prefill_rows = 0

    @abstractmethod
    def register(self, server: FrameServer, model: Model, engine: Engine, info: common_pb2.ModelInfo) -> None:
        """Register the service proper."""

    async def start(self, server: FrameServer) -> None:
        """Load and answer. Raises StartupError when the model cannot be served."""
        try:
            info = await asyncio.to_thread(self._load, server, asyncio.get_running_loop())
        except ModelLoadError as error:
            raise StartupError(str(error)) from error
        assert self.model is not None and self.engine is not None
        _log.info(
            "serving %s (%s, %s, %.1fM parameters) on %s: %d slots of %d tokens, %d MiB of cache, %d threads, "
            "%d rows a batch, %d prompt rows beside others, exact %s",
            info.name,
            info.architecture,
            info.quantization,
            info.num_parameters / 1e6,
            info.device,
            info.num_slots,
            info.context_length,
            info.cache_bytes >> 20,
            self._options().threads(),
            self.settings.batch_rows,
            self.prefill_rows,
            f"by {self.exactness.mode.value} {self.exactness.width}" if self.exactness else "off",
        )
        if server.telemetry.is_metering:
            instruments = EngineInstruments(server.telemetry, self.engine, info.model_bytes, info.cache_bytes)
            self.engine.on_decode = instruments.record_decode
        server.register(model_pb2_grpc.add_ModelServiceServicer_to_server, ModelServicer(self.model, info))
        self.register(server, self.model, self.engine, info)

    async def stop(self) -> None:
        """Stop the engine and free the model."""
        if self.engine is not None:
            await asyncio.to_thread(self.engine.stop)
        if self.model is not None:
            self.model.close()

    def make_runtime(self, model: Model, options: RuntimeOptions, file_digest: str) -> Runtime:
        """Make the runtime. The target overrides this to be exact."""
        return LlamaRuntime(model, options)

    def _load(self, server: FrameServer, loop: asyncio.AbstractEventLoop) -> common_pb2.ModelInfo:
        settings = self.settings
        self.model = Model(settings.model, num_gpu_layers=settings.gpu_layers)
        options = self._options()
        check_memory(self.model, options)
        file_digest = digest_of_file(settings.model)
        runtime = self.make_runtime(self.model, options, file_digest)
        self.prefill_rows = settings.prefill_rows or rows_worth(runtime)
        self.engine = Engine(
            runtime,
            max_queued=settings.max_queued,
            prefill_rows=self.prefill_rows,
            on_failure=lambda sentence: loop.call_soon_threadsafe(server.fail, sentence),
        )
        self.engine.start()
        return describe(self.model, settings, options, self.exactness, file_digest)

    def _options(self) -> RuntimeOptions:
        return RuntimeOptions(
            num_slots=self.settings.slots,
            context_length=self.settings.context,
            max_batch_rows=self.settings.batch_rows,
            num_threads=self.settings.threads,
        )
