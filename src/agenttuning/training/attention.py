"""Which attention a run uses, and why."""

from agenttuning.errors import UserError
from agenttuning.recipe import Recipe


def choose_attention(recipe: Recipe) -> tuple[str, str]:
    """The attention implementation and the reason. Raises UserError when the recipe pins one that is absent here:
    transformers would go and look for it on the Hub.
    """
    from transformers.utils import import_utils

    asked = recipe.launch.attention
    present = {
        f"flash_attention_{number}": getattr(import_utils, f"is_flash_attn_{number}_available")()
        for number in (3, 2, 4)
    }
    if asked in present and not present[asked]:
        raise UserError(
            f"launch.attention: {asked} is not installed here, or there is no GPU for it; another attention would have "
            "another speed and memory than planned; install it (pip install -e '.[gpu]') or write auto"
        )
    if asked != "auto":
        return asked, "pinned by the recipe"
    for name in ("flash_attention_3", "flash_attention_2"):
        if present[name]:
            return name, "auto: it is installed and a GPU is there"
    return "sdpa", "auto: neither flash_attention_3 nor _2 with a GPU here"
