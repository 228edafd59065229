"""A server with a model behind it: what the draft service and the target service have in common."""

import asyncio
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

from outrider.v1 import common_pb2, model_pb2_grpc
from services.engine.complaints import ending_refused
from services.engine.errors import EngineError, ModelLoadError
from services.engine.model.model import Model
from services.engine.runtime.checkpoints import CheckpointRuntime
from services.engine.runtime.devices import accelerators
from services.engine.runtime.interface import Runtime
from services.engine.runtime.memory import (
    check_gpus,
    check_ram,
    layers_that_fit,
    read_sizes,
    room_for_checkpoints,
    rooms,
    rows_that_fit,
    state_bytes,
    with_room_for_snapshots,
)
from services.engine.runtime.padding import Exactness
from services.engine.runtime.runtime import RuntimeOptions
from services.engine.scheduling.engine import Engine
from services.engine.scheduling.turns import turns_of
from services.engine.startup.exactness import most_reserve, runtime_of
from services.engine.startup.flash_attention import choose_flash_attention
from services.engine.startup.instruments import EngineInstruments
from services.engine.startup.measuring import Measuring, budget_after, findings
from services.engine.startup.model_service import LoadedModel, ModelServicer, check_entries, describe, digest_of_files
from services.engine.startup.settings import EngineSettings
from services.engine.startup.trial import tried
from services.frame.program.startup import StartupError
from services.frame.program.waiting import saying
from services.frame.server import FrameServer

_log = logging.getLogger(__name__)
MODEL_SERVICE = "outrider.v1.ModelService"


class ModelApplication(ABC):
    """Loads the model, starts the engine, registers ModelService; the subclass registers its own service."""

    service_names: Sequence[str]
    # Rows of a decode that are taken back as a rule: none of a service that decodes row by row.
    most_rejected = 0

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.model: Model | None = None
        self.engine: Engine | None = None
        self.runtime: Runtime | None = None
        self.exactness: Exactness | None = None
        self._loading: asyncio.Future[tuple[common_pb2.ModelInfo, str]] | None = None
        self._given_up = threading.Event()
        # Tells callers what takes so long, as in "loading a.gguf (30 MiB)". Any thread may call it.
        self.announce: Callable[[str], object] = lambda what: None

    @abstractmethod
    def register(self, server: FrameServer, model: Model, engine: Engine, info: common_pb2.ModelInfo) -> None:
        """Register the service that the subclass is, with what it needs: all of it is ready."""

    async def start(self, server: FrameServer) -> None:
        """Load and answer. Raises StartupError when the model cannot be served."""
        loop = asyncio.get_running_loop()
        self.announce = lambda what: loop.call_soon_threadsafe(server.announce_wait, what)
        # The thread may take its time to say more.
        server.announce_wait(f"loading {self.settings.model.name}")

        async def say(waited_s: float) -> None:
            _log.info("%s, for %.0f s so far", server.wait, waited_s)

        self._loading = loop.run_in_executor(None, self._load_or_end, server, loop)
        try:
            async with saying(say):
                info, summary = await asyncio.shield(self._loading)
        except EngineError as error:
            raise StartupError(str(error)) from error
        except MemoryError as error:
            raise StartupError(
                f"there is not enough memory to serve {self.settings.model}: lower --slots, --context or --batch-rows"
            ) from error
        _log.info("%s", summary)
        assert self.model is not None and self.engine is not None
        if server.telemetry.is_metering:
            instruments = EngineInstruments(server.telemetry, self.engine, info.model_bytes, info.cache_bytes)
            if isinstance(self.runtime, CheckpointRuntime):
                instruments.observe_checkpoints(self.runtime)
            self.engine.observe(instruments.record_decode)
        servicer = ModelServicer(self.model, self.engine, info, self.settings.max_message_bytes)
        server.register(model_pb2_grpc.add_ModelServiceServicer_to_server, servicer)
        self.register(server, self.model, self.engine, info)

    async def stop(self) -> None:
        """Stop the engine and free the model, once loading has ended: its thread works with both."""
        if self._loading is not None:
            if not self._loading.done():
                self._given_up.set()
            # Whoever started the service knows its error, if any, unless that was given up.
            await asyncio.gather(self._loading, return_exceptions=True)
        if self.engine is not None:
            await asyncio.to_thread(self.engine.stop)
        if self.model is not None:
            self.model.close()

    def on_loaded(self, model: Model) -> None:
        """The model was loaded. The subclass raises ModelLoadError for one that it cannot serve."""
        self.model = model

    def choose(self, loaded: LoadedModel, measuring: Measuring) -> LoadedModel:
        """Choose what measuring at load decides. The target overrides this to choose its `exactness` first."""
        flash_attention = choose_flash_attention(self.settings.flash_attention, loaded, self.exactness, measuring)
        return replace(loaded, options=replace(loaded.options, flash_attention=flash_attention))

    def make_runtime(self, loaded: LoadedModel) -> Runtime:
        """Make the runtime that the engine will own. Tests put one of their own in its place."""
        return runtime_of(loaded.model, loaded.options, self.exactness, self.settings.max_draft_tokens)

    def _load_or_end(self, server: FrameServer, loop: asyncio.AbstractEventLoop) -> tuple[common_pb2.ModelInfo, str]:
        """Load; where llama.cpp gives up on the process, that ends like any other that refuses to start."""
        with ending_refused(f"{self.settings.program}: cannot serve {self.settings.model}"):
            return self._load(server, loop)

    def _load(self, server: FrameServer, loop: asyncio.AbstractEventLoop) -> tuple[common_pb2.ModelInfo, str]:
        """Return the description of what is served, and a line that tells what was measured and chosen."""
        settings = self.settings
        started_s = time.perf_counter()
        sizes = read_sizes(settings.model)
        self.announce(f"loading {settings.model.name} ({sizes.weights_bytes >> 20} MiB)")
        options = RuntimeOptions(
            num_slots=settings.slots,
            context_length=settings.context,
            reserve=most_reserve(settings.max_draft_tokens, keeps_state=sizes.keeps_state),
            num_threads=settings.threads,
            flash_attention=settings.flash_attention == "on",
        )
        gpus = accelerators()
        gpu_layers = settings.gpu_layers if gpus else 0
        if gpu_layers < 0:
            most_bytes = max((gpu.free_bytes for gpu in gpus), default=0)
            gpu_layers = layers_that_fit(sizes, options, most_bytes) if gpus else 0
        device = ", ".join(gpu.name for gpu in gpus) if gpus and gpu_layers else "CPU"
        found = rooms()
        checkpoint_bytes = room_for_checkpoints(sizes, options, found, gpu_layers, settings.checkpoint_mib)
        options = replace(options, checkpoint_bytes=checkpoint_bytes)
        check_ram(sizes, options, found, gpu_layers)
        model = Model(
            settings.model,
            num_gpu_layers=gpu_layers,
            given_up=self._given_up,
            end_tokens=settings.end_token_ids,
        )
        model.check_positions(options.context_length, options.reserve)
        if 0 < model.trained_context < options.context_length:
            _log.warning(
                "--context is %d, but %s was trained with %d: text beyond that may be worse",
                options.context_length,
                settings.model.name,
                model.trained_context,
            )
        check_entries(model, settings.max_message_bytes)
        self.on_loaded(model)
        free_gpus = accelerators()
        check_gpus(model, options, free_gpus, gpu_layers)
        max_batch_rows = settings.batch_rows or rows_that_fit(model.vocabulary.size)
        num_snapshots = self.most_rejected if sizes.keeps_state else 0
        options = replace(options, max_batch_rows=max_batch_rows, num_snapshots=num_snapshots)
        loaded = LoadedModel(model, options, digest_of_files(model.parts, self._given_up), f"{device} {gpu_layers}")
        measuring = Measuring(budget_after(time.perf_counter() - started_s), findings(), self.announce)
        loaded = tried(loaded, measuring)
        options = with_room_for_snapshots(
            loaded.options, sizes, found, free_gpus if gpu_layers else (), gpu_layers, settings.checkpoint_mib
        )
        loaded = self.choose(replace(loaded, options=options), measuring)
        self.runtime = runtime = self.make_runtime(loaded)
        if self._given_up.is_set():
            runtime.close()
            raise ModelLoadError("the model was given up")
        self.engine = Engine(
            runtime,
            max_queued=settings.max_queued,
            prompt_rows=settings.prefill_rows,
            turns=turns_of("off" if gpu_layers else settings.core_lock, options.threads()),
            on_failure=lambda sentence: loop.call_soon_threadsafe(server.fail, sentence),
        )
        self.engine.start()
        info = describe(loaded, self.exactness, device, settings.max_draft_tokens)
        flash_attention = "on" if loaded.options.flash_attention else "off"
        states_bytes = state_bytes(model, loaded.options)
        states = f" with {states_bytes >> 20} MiB of states" if states_bytes else ""
        states += f" and {loaded.options.num_snapshots} snapshots a slot" if loaded.options.num_snapshots else ""
        exact = f"by {self.exactness.mode.value} {self.exactness.width}" if self.exactness else "off"
        summary = (
            f"serving {info.name} ({info.architecture}, {info.quantization}, "
            f"{info.num_parameters / 1e6:.1f}M parameters) on {device}: "
            f"{info.num_slots} slots of {info.context_length} tokens, {info.cache_bytes >> 20} MiB of cache{states}, "
            f"{options.threads()} threads, {gpu_layers} layers on the GPU, {options.max_batch_rows} rows a batch, "
            f"flash attention {flash_attention}, exact {exact}"
        )
        return info, summary
