"""`optim: muon`: torch.optim.Muon for the matrices inside the layers, torch.optim.AdamW for everything else.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) orthogonalises the update of a weight matrix; it
is not meant for embeddings, the output head, norms and biases. Both parts sit behind one Optimizer, so that scheduler,
accelerate and checkpoints see a single list of groups and a single state.

Recipe keys: `learning_rate` is Muon's rate; AdamW's stands in `optim_args: adamw_lr=0.003`. `weight_decay` holds for
both parts (never for norms and biases), `adam_beta1`, `adam_beta2` and `adam_epsilon` for AdamW. Further optim_args:
`momentum` (0.95), `ns_steps` (5) and `adjust_lr_fn` (original | match_rms_adamw), all torch's own names and defaults.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from agenttuning.errors import UserError

NAME = "muon"


@dataclass(frozen=True)
class MuonArguments:
    """What `optim_args` may say for `optim: muon`. Defaults are torch 2.13's, except that adamw_lr has none."""

    adamw_lr: float
    momentum: float = 0.95
    ns_steps: int = 5
    adjust_lr_fn: str = "original"


PARSERS = {"adamw_lr": float, "momentum": float, "ns_steps": int, "adjust_lr_fn": str}


def parse_arguments(text: str | None) -> MuonArguments:
    """ "adamw_lr=0.003,momentum=0.9" -> MuonArguments. Raises UserError for unknown, repeated or malformed entries."""
    found: dict[str, Any] = {}
    for entry in (text or "").split(","):
        key, equals, value = (part.strip() for part in entry.partition("="))
        if not entry.strip():
            continue
        if key not in PARSERS or not equals or key in found:
            raise UserError(
                f"optim_args: `{entry.strip()}` is not understood with optim: muon; it would change nothing; write "
                f"each of {', '.join(PARSERS)} at most once, as key=value"
            )
        try:
            found[key] = PARSERS[key](value)
        except ValueError:
            raise UserError(f"optim_args: {key} is {value!r}, which is not a number; correct it") from None
    if "adamw_lr" not in found:
        raise UserError(
            "optim: muon needs the rate of its AdamW part; Muon's own would be far too large for embeddings; write "
            "optim_args: adamw_lr=0.003"
        )
    arguments = MuonArguments(**found)
    in_range = 0 <= arguments.adamw_lr < 1e3 and 0 <= arguments.momentum < 1 and 1 <= arguments.ns_steps < 100
    if not in_range:  # not a number is in no range
        raise UserError(
            f"optim_args: {text} is out of range: adamw_lr in [0, 1000), momentum in [0, 1), ns_steps in [1, 100)"
        )
    if arguments.adjust_lr_fn not in ("original", "match_rms_adamw"):
        raise UserError(f"optim_args: adjust_lr_fn is {arguments.adjust_lr_fn!r}; use original or match_rms_adamw")
    return arguments


class MuonWithAdamW(torch.optim.Optimizer):
    """One optimizer of two: `matrices` go to Muon, `others` (AdamW parameter groups) to fused AdamW.

    Groups and state are shared objects, never copies: the scheduler changes a rate once, and one state_dict holds all.
    """

    def __init__(
        self,
        matrices: Iterable[torch.nn.Parameter],
        others: list[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
        eps: float,
        arguments: MuonArguments,
    ) -> None:
        self.muon = torch.optim.Muon(
            list(matrices),
            lr=lr,
            weight_decay=weight_decay,
            momentum=arguments.momentum,
            ns_steps=arguments.ns_steps,
            adjust_lr_fn=arguments.adjust_lr_fn,
        )
        self.adamw = torch.optim.AdamW(others, lr=arguments.adamw_lr, betas=betas, eps=eps, fused=True)
        # schedulers with an absolute lowest rate read defaults["lr"]
        super().__init__([*self.muon.param_groups, *self.adamw.param_groups], {"lr": lr})
        self._share()

    def _share(self) -> None:
        self.muon.state = self.adamw.state = self.state
        self.muon.param_groups, self.adamw.param_groups = self.param_groups[:1], self.param_groups[1:]

    def __setstate__(self, state: dict[str, Any]) -> None:
        # load_state_dict ends here after replacing state and groups by new objects
        super().__setstate__(state)
        self._share()

    def step(self, closure=None):
        """One update of all parameters. A closure is not supported (the Trainer gives none)."""
        if closure is not None:
            raise ValueError("MuonWithAdamW takes no closure")
        self.muon.step()
        self.adamw.step()


def build(model: torch.nn.Module, decayed: Iterable[str], recipe_values: dict[str, Any]) -> MuonWithAdamW:
    """The optimizer of `optim: muon` for a causal language model.

    decayed: names of the parameters that weight decay applies to (the Trainer's own list). Muon gets the weights of
    linear layers other than the output head. Raises UserError for wrong `optim_args` or a model without such layers.
    """
    arguments, get = parse_arguments(recipe_values.get("optim_args")), recipe_values.get
    head = model.get_output_embeddings()
    linear = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Linear)}
    linear.discard(id(head.weight) if head is not None else None)
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    matrices = [weight for _, weight in named if id(weight) in linear]
    if not matrices:
        raise UserError("optim: muon found no trainable linear layer; nothing would use it; use adamw_torch_fused")
    decay, decayed = get("weight_decay", 0.0), set(decayed)
    rest = [(name, weight) for name, weight in named if id(weight) not in linear]
    others = [
        {"params": [weight for name, weight in rest if name in decayed], "weight_decay": decay},
        {"params": [weight for name, weight in rest if name not in decayed], "weight_decay": 0.0},
    ]
    return MuonWithAdamW(
        matrices,
        [group for group in others if group["params"]],
        lr=recipe_values["learning_rate"],
        weight_decay=decay,
        betas=(get("adam_beta1", 0.9), get("adam_beta2", 0.999)),
        eps=get("adam_epsilon", 1e-8),
        arguments=arguments,
    )
