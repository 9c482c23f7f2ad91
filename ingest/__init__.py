"""The net above: what comes in. Cameras' streams and simulated cameras; knows no picture content and no database.

Lowest layer: imports neither `analytics` nor `command`; what two layers share lives here.
"""

from ingest.errors import register_messages

register_messages(__name__)
