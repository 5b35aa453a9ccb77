"""Small byte-level BPE tokenizers with the control tokens of today's model families, and their templates from the
installed TRL (none is copied into this repository)."""

from __future__ import annotations

from pathlib import Path

CONTROL = {
    "chatml": ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"),
    "llama3": (
        "<|begin_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<|finetune_right_pad_id|>",
    ),
    "gptoss": ("<|startoftext|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|endoftext|>"),
}
WORDS = ("<think>", "</think>", "<tool_call>", "</tool_call>")  # added tokens that are not special, as in Qwen3
FAMILIES = {  # name of TRL's template: control tokens
    "qwen3": "chatml",
    "qwen3_instruct_2507": "chatml",
    "qwen2_5": "chatml",
    "llama3": "llama3",
    "llama3_1": "llama3",
    "llama3_2": "llama3",
    "gptoss": "gptoss",
}
# Written for these tests with the habits of SmolLM3's: a system block with a date, and an opening before every answer.
DATED = (
    "{{ '<|im_start|>system\\nToday: ' + strftime_now('%d %B %Y') + '<|im_end|>\\n' }}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' %}{{ '<think>\\n\\n</think>\\n' }}{% endif %}"
    "{{ m.content.lstrip('\\n') + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Also ours, with SmolLM3's other habits: a default system block, a mode that a system text switches, and a mark around
# what is generated, which transformers knows and plain Jinja does not.
DEFAULT_SYSTEM = (
    "{%- set own = messages[0].content if messages[0].role == 'system' else '' -%}"
    "{%- set think = '/no_think' not in own -%}"
    "{{- '<|im_start|>system\n## Metadata\nToday: ' + strftime_now('%d %B %Y') + '\nMode: ' -}}"
    "{{- ('/think' if think else '/no_think') + '\n\n' -}}"
    "{{- (own.replace('/no_think', '').rstrip() if own else 'You are a helpful assistant.') + '<|im_end|>\n' -}}"
    "{%- for m in messages if m.role != 'system' -%}"
    "{{- '<|im_start|>' + m.role + '\n' -}}"
    "{%- if m.role == 'user' -%}{{- m.content + '<|im_end|>\n' -}}{%- else -%}"
    "{% generation %}{{- ('' if think else '<think>\n\n</think>\n') + m.content.lstrip('\n') + '<|im_end|>\n' -}}"
    "{% endgeneration %}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
# Spaces around an answer, as Llama-2's template on the Hub has them.
SPACED = (
    "{%- for m in messages -%}{%- if m.role == 'user' -%}{{- '[INST] ' + m.content.strip() + ' [/INST]' -}}"
    "{%- elif m.role == 'system' -%}{{- '[SYS]' + m.content.strip() -}}"
    "{%- else -%}{{- ' ' + m.content.strip() + ' ' + eos_token -}}{%- endif -%}{%- endfor -%}"
)
OWN = {"dated": DATED, "default_system": DEFAULT_SYSTEM, "spaced": SPACED}  # all with chatml's control tokens
REWRITES = (  # the system turn moves into the last user turn, as some templates do
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|im_start|>' }}"
    "{% if loop.index0 >= messages|length - 2 %}{{ 'last ' }}{% endif %}{{ m.content + '<|im_end|>' }}"
    "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
)


def trl_template(name: str) -> str:
    """The text of a template that TRL ships."""
    import trl

    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def trl_names() -> list[str]:
    """Names of the text templates that TRL ships as copies of the models' own, without those that it patched."""
    import trl

    files = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
    return [file.stem for file in files if not file.stem.endswith(("_training", "_vl"))]


def control_of(template: str) -> tuple[str, ...]:
    """The control tokens that a template's text names, after a start, an unused, an end and a padding token."""
    import re

    words = r"<[|｜][^'\"<>{}]+?[|｜]>|</?s>|<bos>|<eos>|<(?:start|end)_of_turn>|<turn\|>|<\|turn>|\[gMASK\]|<sop>"
    return tuple(dict.fromkeys(["<start>", "<unused>", "<end>", "<|pad|>", *sorted(re.findall(words, template))]))


def write_tokenizer(folder: Path, family: str, template: str, control: tuple[str, ...] = ()) -> Path:
    """Write a tokenizer with the control tokens of CONTROL[family], or these, and this template to `folder`; returns
    it."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(BPE())
    # line ends are pieces of their own, as in the tokenizers of these families; GPT-2's would join them to what follows
    words = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=[], show_progress=False
    )
    backend.train_from_iterator(["user assistant system find the key\n\n\n\nAction: open drawer 1 \n"] * 4, trainer)
    control = control or CONTROL[family]
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in control])
    backend.add_tokens([AddedToken(text, normalized=False) for text in WORDS])
    bos = control[0] if family != "chatml" else None
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=control[2])
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder
