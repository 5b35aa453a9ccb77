"""The room around TRL's SFTTrainer: settings, model, attention, batches, meter, checkpoints, saving."""
