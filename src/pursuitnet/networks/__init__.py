"""The networks of Tables I to III, each a choice of factors, widths, pooling and head."""

from pursuitnet.networks.checkpoints import load_resnet_checkpoint
from pursuitnet.networks.create import FAMILIES, create_model, list_models
from pursuitnet.networks.msdnet import load_msdnet
from pursuitnet.networks.network import Network
from pursuitnet.networks.radii import Certified, certify
from pursuitnet.networks.tiles import apply

__all__ = [
    "FAMILIES",
    "Certified",
    "Network",
    "apply",
    "certify",
    "create_model",
    "list_models",
    "load_msdnet",
    "load_resnet_checkpoint",
]
