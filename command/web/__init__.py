"""The HTTP face: API, live feed, probes and the one page. `create_app(state)` builds it, `WebServer` serves it."""
