"""Formats on disk; this room knows no model.

model_folder         config.json and model.safetensors, hash-checked
checkpoint           Lightning checkpoints, read without running anything in them
huggingface          download a model folder
files                atomic JSON and YAML
tokenizer            characters, words, byte pairs
preprocessing        pictures to what a model expects
text_preprocessing   text to what a model expects
"""
