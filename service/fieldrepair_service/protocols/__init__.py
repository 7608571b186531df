"""Decoders by the name that an exchange carries. A new protocol is one module and one line here."""

from fieldrepair_service.protocols.base import DecodedExchange, Decoder, Predictions
from fieldrepair_service.protocols.mlflow import MlflowScoring

DECODERS: dict[str, Decoder] = {decoder.name: decoder for decoder in (MlflowScoring(),)}

__all__ = ["DECODERS", "DecodedExchange", "Decoder", "Predictions"]
