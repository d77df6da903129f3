"""Explicit models that a comparison needs: a small residual network, and any model of timm by its name."""
