"""Client of an Evenflow server: streams of text from models with a constant-size memory."""
from evenflow.client import Client, Piece, Session, Stream

__all__ = ["Client", "Piece", "Session", "Stream"]
