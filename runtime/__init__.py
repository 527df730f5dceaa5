"""The streaming runtime: bundle in, camera in, decisions out.

Imports the standard library, numpy and cv2 only; engines and web parts are imported inside the
one module that needs them. Never torch, never another room.
"""

__version__ = "0.1.0"
