"""Tasks: LightningModules that train one model. Imported by path from a model's card, so that nothing heavy loads here."""
