"""The formula of an objective as text: one line each for reward, advantage, loss, aggregation and value."""

from __future__ import annotations

from rlalign.objective.registries import UNCHANGED
from rlalign.objective.spec import Objective

_BASELINE = {
    "none": "",
    "ema": "moving average of r",
    "batch_mean": "mean of the batch",
    "value": "V(s_t)",
    "greedy": "r(greedy)",
    "group_mean": "mean of the group",
    "leave_one_out": "mean of the group's others",
    "length_weighted_group_mean": "Σ l r / Σ l over the group",
}
_SCALE = {"group_std": "std of the group", "batch_std": "std of r over the batch", "group_mean": "mean of the group"}
_RATIO = {
    "none": "",
    "token": "rho_t = pi_t/old_t",
    "sequence_product": "rho = Π pi_t/old_t",
    "sequence_geomean": "rho = (Π pi_t/old_t)^(1/|y|)",
}
_TOTAL = {
    "sequence_sum": "Σ_i Σ_t / N",
    "sequence_mean": "Σ_i (1/|y_i|) Σ_t / N",
    "token_global": "Σ_i Σ_t / Σ_i |y_i|",
    "constant": "Σ_i Σ_t / (N · L_max)",
}


def formula(objective: Objective) -> list[str]:
    """Return the lines of the formula; a reward line only if something is added to the reward."""
    o = objective
    if o.is_preference:
        return _preference(o)
    lines = []
    extra = " + length penalty" if o.filter.overlong else ""
    if o.kl.where == "reward":
        adaptive = f", beta adapted to {o.kl.target:g} nats" if o.kl.target else ""
        extra += f" - {o.kl.coef:g} · {o.kl.estimator}(pi‖ref){adaptive}"
    if extra:
        lines.append(f"r ← r{extra}")
    lines.append(f"A = {_advantage(o)}")
    if o.advantage != UNCHANGED:
        lines.append(f"A ← f(A, batch), f = {o.advantage}")
    lines.append(f"loss = {_loss(o)}")
    lines.append(f"total = {_TOTAL.get(o.aggregation, o.aggregation)}")
    if o.needs_values:
        clip = f", clipped at ±{o.value.clip:g}" if o.value.clip else ""
        lines.append(f"value loss = {o.value.coef:g} · ½ (V - R)²{clip}")
    return lines


def _preference(o: Objective) -> list[str]:
    """Return the lines of a preference loss: the implicit reward of a completion, the loss, and its mean."""
    p, beta = o.preference, f"{o.kl.coef:g}"
    mean = "(1/|y|) Σ_t" if o.loss == "simpo" or (o.loss == "ipo" and p.length_normalized) else "Σ_t"
    reward = f"{p.scale:g} · {mean} log pi" if o.loss == "simpo" else f"{beta} · {mean} log pi/ref"
    lines = [f"s(y) = {reward}"]
    if o.loss == "kto":
        lines.append(f"loss = {p.desirable_weight:g} · (1 - sigmoid(s - {beta} · z0)) if y is desirable")
        lines.append(f"       {p.undesirable_weight:g} · (1 - sigmoid({beta} · z0 - s)) otherwise")
        return [*lines, "total = Σ_i / N"]
    lines.append("m = s(chosen) - s(rejected)" + (f" - {p.margin:g}" if o.loss == "simpo" else ""))
    if o.loss == "ipo":
        lines.append(f"loss = (m / {beta} - 1 / (2 · {beta}))²")
    elif p.label_smoothing:
        lines.append(f"loss = -{1 - p.label_smoothing:g} log sigmoid(m) - {p.label_smoothing:g} log sigmoid(-m)")
    else:
        lines.append("loss = -log sigmoid(m)")
    return [*lines, "total = Σ_pairs / P"]


def _advantage(o: Objective) -> str:
    c = o.credit
    if c.kind == "gae":
        lam = f"1 - 1/({c.length_alpha:g} |y|)" if c.length_alpha else f"{c.lambda_actor:g}"
        text = f"GAE(gamma {c.gamma:g}, lambda {lam}; returns with lambda {c.lambda_critic:g})"
    else:
        discount = "" if c.gamma == 1 else f"{c.gamma:g}^(k-t) "
        returns = "r" if c.kind == "trajectory" else f"Σ_(k>=t) {discount}r_k"
        base = _BASELINE.get(o.baseline, f"{o.baseline}(r)")
        text = f"{returns} - {base}" if base else returns
    if o.scale == "whiten":
        return f"whiten({text})"
    return f"({text}) / {_SCALE[o.scale]}" if o.scale != "none" else text


def _loss(o: Objective) -> str:
    if o.loss != "surrogate":
        text = f"{o.loss}(objective, batch)"
    else:
        text = _gain(o)
        if o.ratio != "none":
            text += f",  {_RATIO[o.ratio]}"
    if o.off_policy.kind != "none":
        text += f",  times {o.off_policy.kind} weights"
    if o.kl.where == "loss":
        importance = "" if o.kl.importance == "none" else f" · {o.kl.importance} ratio"
        text += f"  + {o.kl.coef:g} · {o.kl.estimator}(pi‖ref){importance}"
    if o.regularizer.entropy_coef:
        text += f"  - {o.regularizer.entropy_coef:g} · H"
    if o.regularizer.nll_coef:
        text += f"  - {o.regularizer.nll_coef:g} · mean of log pi over the tokens of r > {o.regularizer.nll_above:g}"
    return text


def _gain(o: Objective) -> str:
    t = o.trust
    low, high = f"{1 - t.low:g}", f"{1 + t.high:g}"
    plain = "-A · log pi" if o.ratio == "none" else "-rho A"
    return {
        "none": plain,
        "clip": f"-min(rho A, clip(rho, {low}, {high}) A)",
        "dual_clip": f"-max(min(rho A, clip(rho, {low}, {high}) A), {t.dual:g} A if A < 0)",
        "stopgrad_cap": f"-sg(clip(rho, {low}, {high})) A log pi",
        "soft_gate": f"-(4/tau) sigmoid(tau (rho - 1)) A, tau = {t.tau_pos:g} if A > 0 else {t.tau_neg:g}",
        "log_clip": f"-A exp(mean_t clip(log rho_t, -{t.low:g}, {t.high:g}) on the side of A's sign)",
        "divergence_mask": f"-rho A, 0 where it moves away and {t.divergence.upper()} > {t.delta:g}",
    }.get(t.kind, f"-{t.kind}(rho, A)")
