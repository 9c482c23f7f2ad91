"""What turns observations into events: a module a kind of rule, and the hours that they keep."""
