"""Decoders by the name that an exchange carries. A new protocol is a module, a line here, and its path in routes."""

from fieldrepair_service.protocols.base import DecodedExchange, Decoder, Predictions
from fieldrepair_service.protocols.kserve import KServe
from fieldrepair_service.protocols.mlflow import MlflowScoring
from fieldrepair_service.protocols.open_inference import OpenInference
from fieldrepair_service.protocols.torchserve import TorchServe

DECODERS: dict[str, Decoder] = {
    decoder.name: decoder for decoder in (MlflowScoring(), OpenInference(), TorchServe(), KServe())
}

__all__ = ["DECODERS", "DecodedExchange", "Decoder", "Predictions"]
