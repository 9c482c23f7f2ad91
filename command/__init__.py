"""The grid below: store, match, dispatch, wall, API, pages and the `gridwatch` command line."""

from ingest.errors import register_messages

register_messages(__name__)
