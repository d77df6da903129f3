"""Formats on disk; this room knows no model.

model_folder         config.json and model.safetensors, hash-checked
checkpoint           Lightning checkpoints, read without running anything in them
huggingface          download a model folder
files                atomic JSON and YAML
guards               files that may be hostile: regular, bounded, unpacked up to a limit
arrays               arrays out of numpy's files and out of pickles, without running anything
tokenizer            characters, words, byte pairs
preprocessing        from pictures to what a model expects
text_preprocessing   from text to what a model expects
"""
