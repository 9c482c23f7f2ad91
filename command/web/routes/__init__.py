"""The routes, a file a noun. Each declares its right; `command.web.app` puts them together."""
