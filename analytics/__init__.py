"""What is going on in the pictures: decode, detect, rules, evidence; emits events. Knows no SQL and no HTTP."""

from ingest.errors import register_messages

register_messages(__name__)
