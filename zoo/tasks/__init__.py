"""Tasks: LightningModules that train one model. A model's card names its task by import path; nothing loads here."""
