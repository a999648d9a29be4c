"""Lightning's DeepSpeed strategy with a configuration made from the run's settings, and checkpoints in one file."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any

from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from qcvl.errors import ConfigError
from qcvl.modules.sharded import training_goes_on
from qcvl.modules.zero import sharded
from qcvl.modules.zero.config import deepspeed_config
from qcvl.modules.zero.settings import Zero, Zero3


class ZeroStrategy(DeepSpeedStrategy):
    """Deals weights, gradients and moments over GPUs by DeepSpeed's ZeRO.

    Checkpoints hold what those of one device do, gathered by the first rank, so that a run may go on with another
    number of devices or another strategy. DeepSpeed's own would be one pickle a rank, for that number of ranks.

    Args:
        zero: what is dealt.
        micro_batch: samples a batch, for DeepSpeed's own records.
    """

    def __init__(self, *, zero: Zero | Zero3, micro_batch: int) -> None:
        if find_spec("deepspeed") is None:
            raise ConfigError(
                "trainer.strategy: DeepSpeed is not installed, which strategy=deepspeed_* needs; "
                "pip install 'qcvl[deepspeed]', or use strategy=ddp"
            )
        self.zero, self.micro_batch = zero, micro_batch
        self._groups: list[list[nn.Parameter]] = []
        self._whole = ExitStack()
        super().__init__(config={"zero_optimization": zero.section()})

    def _configure_launcher(self) -> None:
        """Called when the trainer is made, before weights are loaded: the first that knows the accelerator."""
        if not isinstance(self.accelerator, CUDAAccelerator):
            raise ConfigError(
                f"trainer.strategy: DeepSpeed needs GPUs and this run is on {type(self.accelerator).__name__}; "
                "use strategy=ddp, or trainer.accelerator=gpu on a machine that has one"
            )
        super()._configure_launcher()

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        """The model is built whole in the host's memory and dealt afterwards: adapters and fast paths need its weights.

        DeepSpeed's own context would take each weight away as it is made.
        """
        self._init_config_if_needed()
        yield

    def _format_config(self) -> None:
        """The run's settings as DeepSpeed's configuration, in place of Lightning's additions to a given one."""
        assert self.lightning_module is not None
        trainer = self.lightning_module.trainer
        self.config = deepspeed_config(
            self.zero,
            precision=self.precision_plugin.precision,
            accumulate=trainer.accumulate_grad_batches,
            gradient_clip=trainer.gradient_clip_val,
            micro_batch=self.micro_batch,
        )

    def _setup_model(self, model: nn.Module) -> nn.Module:
        """Stage 3: deal the model weight by weight; DeepSpeed has it whole on each device first.

        Between two phases Lightning takes all that is not dealt to the host; it comes back here.
        """
        if self.zero_stage_3:
            sharded.deal(model, self.config)
            model.to(self.root_device)
        return model

    def _setup_model_and_optimizer(
        self, model: nn.Module, optimizer: Optimizer | None, lr_scheduler: Any = None
    ) -> tuple[Any, Any]:
        self._groups = [list(group["params"]) for group in optimizer.param_groups] if optimizer else []
        engine, dealing = super()._setup_model_and_optimizer(model, optimizer, lr_scheduler)
        sharded.mark(self._groups, dealing)
        return engine, dealing

    @property
    def handles_gradient_accumulation(self) -> bool:
        """False: Lightning says which batch ends a step. DeepSpeed would count them, and miss the end of an epoch."""
        return False

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Around a batch that does not end a step: its gradients are added up."""
        self.deepspeed_engine.set_gradient_accumulation_boundary(False)
        try:
            yield
        finally:
            self.deepspeed_engine.set_gradient_accumulation_boundary(True)

    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        """The loss is divided by the accumulation already, by Lightning; DeepSpeed would do so again."""
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)

    # Validations: ranks have different numbers of photos, and stage 3 would wait for each other's at every layer.

    def on_validation_start(self) -> None:
        """Stage 3: gather all weights, so that each rank may run the model as often as its share of the photos asks."""
        if self.zero_stage_3:
            with training_goes_on():
                self._whole.enter_context(sharded.whole_weights(self.lightning_module))

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Stage 3: not through DeepSpeed's engine, which has ranks agree on each forward."""
        if not self.zero_stage_3:
            return super().validation_step(*args, **kwargs)
        with self.precision_plugin.val_step_context():
            return self.lightning_module.validation_step(*args, **kwargs)

    def on_validation_end(self) -> None:
        """Deal the weights again."""
        with training_goes_on():
            self._whole.close()

    def teardown(self) -> None:
        """Take DeepSpeed's hooks off the model: the next phase (after a validation, training) puts its own on."""
        if hasattr(self.model, "destroy"):
            self.model.destroy()
        if not self.zero_stage_3:
            sharded.mark(self._groups, None)
        super().teardown()

    # Checkpoints: as without DeepSpeed, from gathered tensors.

    @property
    def lightning_restore_optimizer(self) -> bool:
        """True: the optimizer's state is in the checkpoint like that of any other."""
        return True

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write a state that is whole on the first rank."""
        super(DeepSpeedStrategy, self).save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read it, on every rank."""
        return super(DeepSpeedStrategy, self).load_checkpoint(checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Set the trained weights and their float32 originals."""
        assert self.lightning_module is not None
        trained = {name: value for name, value in self.lightning_module.named_parameters() if value.requires_grad}
        for name, value in checkpoint["state_dict"].items():
            sharded.set_whole(trained[name], value)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The moments whole, on the first rank."""
        return sharded.optimizer_state(optimizer, self._groups)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Deal the moments over the ranks there are now."""
        (optimizer,) = self.optimizers
        sharded.load_optimizer_state(optimizer, self._groups, checkpoint["optimizer_states"][0])
