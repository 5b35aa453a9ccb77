"""A recipe over two small sources, agents and chats, at shares 0.25 and 0.75; `{model}` is its tokenizer."""

RECIPE = """
model_name_or_path: {model}
max_steps: 5
max_length: 200
packing: false
per_device_train_batch_size: 1
learning_rate: 1.0e-3
seed: 1
loss: flags
mixture:
  sources: {{agents: {{share: 0.25}}, chats: {{share: 0.75}}}}
  draws: 40
  seed: 3
launch: {{global_batch: 4, accelerate_config: cpu}}
"""
