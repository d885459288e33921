"""Where the passes over many texts are run: in this process, or by the actors of a Ray cluster."""

from emolens.engines.engine import Engine, each
from emolens.engines.ray_data import Ray

__all__ = ["Engine", "Ray", "each"]
