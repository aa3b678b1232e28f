"""The hooks of a run, as the trainer calls them: callbacks and metrics of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlalign.config.schema import OBJECT, TrainConfig
from rlalign.errors import UserError
from rlalign.evaluation.custom_metrics import evaluated_samples
from rlalign.evaluation.evaluate import Evaluation
from rlalign.log.custom_metrics import CustomMetrics, load_metrics
from rlalign.rollout.collect import Rollout
from rlalign.rollout.views import rollout_view, samples_view
from rlalign.training.callbacks import Callbacks, EvaluationView, StepView, load_callbacks
from rlalign.training.update_buffer import UpdateBuffer

STOPPED_BY_CALLBACK = "train/stop_callback"


class Hooks:
    """Callbacks and metrics of a run.

    Args:
        callbacks: of the run.
        metrics: of the run.
    """

    def __init__(self, callbacks: Callbacks | None = None, metrics: CustomMetrics | None = None) -> None:
        self.callbacks = callbacks or Callbacks()
        self.metrics = metrics or CustomMetrics()

    @property
    def should_stop(self) -> bool:
        """Whether a callback has ended the run."""
        return bool(self.callbacks.stopped_by)

    def after_rollout(self, step: int, rollout: Rollout, buffer: UpdateBuffer) -> dict[str, float]:
        """Show the rollout of a step to the callbacks, and return the metrics of its samples.

        Args:
            step: the step, from 1.
            rollout: all that was sampled for it, with the environment's rewards.
            buffer: has the advantages, if the rollout was not narrowed by dynamic sampling.
        """
        if self.callbacks.wants("on_rollout"):
            same_rows = len(rollout) == len(buffer.tokens)
            advantages, valid = (buffer.batch.advantages, buffer.batch.valid) if same_rows else (None, None)
            self.callbacks.on_rollout(rollout_view(rollout, step, advantages, valid))
        return self.metrics.means(samples_view(rollout)) if self.metrics else {}

    def after_step(self, view: StepView, metrics: Mapping[str, float]) -> dict[str, float]:
        """Show a step to the callbacks; return `train/stop_callback`, 1 if one ends the run, if one has should_stop."""
        self.callbacks.on_step(view, metrics)
        if not self.callbacks.wants("should_stop"):
            return {}
        return {STOPPED_BY_CALLBACK: float(self.callbacks.ask_to_stop())}

    def after_evaluation(self, step: int, evaluation: Evaluation, others: Mapping[str, float] | None = None) -> None:
        """Show an evaluation to the callbacks.

        Args:
            step: steps done.
            evaluation: on held-out prompts.
            others: further metrics of it, such as those of recorded data, by their logged keys.
        """
        if self.callbacks.wants("on_evaluation"):
            means = {name: evaluation.mean(name) for name in evaluation.metrics} | evaluation.report.figures
            means |= {name.removeprefix("eval/"): value for name, value in (others or {}).items()}
            self.callbacks.on_evaluation(EvaluationView(step, means, evaluated_samples(evaluation)))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of callbacks and metrics."""
        return {"callbacks": self.callbacks.state_dict(), "metrics": self.metrics.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.callbacks.load_state_dict(state["callbacks"])
        self.metrics.load_state_dict(state["metrics"])


def make_hooks(
    config: TrainConfig,
    *,
    callbacks: Sequence[Any] | None = None,
    metrics: Sequence[Any] | None = None,
    report: Callable[[str], None] | None = None,
) -> Hooks:
    """Return the hooks of a configuration.

    Args:
        config: names callbacks and metrics.
        callbacks, metrics: objects and specs in place of the configuration's names; None: those of the names.
        report: prints the failure of a metric.

    Raises:
        UserError: one of them cannot be loaded, or was passed as a Python object and is not passed again.
    """
    for name, specs, passed in (("callbacks", config.callbacks, callbacks), ("metrics", config.metrics, metrics)):
        objects = [spec for spec in specs if spec.startswith(OBJECT)]
        if objects and passed is None:
            raise UserError(
                f"'{objects[0]}' was passed as a Python object and cannot be rebuilt by name; pass {name}=..."
            )
    return Hooks(
        Callbacks(load_callbacks(config.callbacks if callbacks is None else callbacks)),
        CustomMetrics(load_metrics(config.metrics if metrics is None else metrics), report),
    )
