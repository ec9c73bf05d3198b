"""Errors of the node agent: one tree, each text a sentence with the value, the bound and the next step."""


class NodeError(Exception):
    """Root of what the node agent raises on purpose."""


class SettingsError(NodeError, ValueError):
    """A setting is misspelt, has the wrong type or lies outside its bounds."""


class SourceError(NodeError):
    """A source could not give a reading this time; the others go on."""


class SpoolError(NodeError):
    """The spool cannot keep its promise any more; the process must exit and be started again."""


class SpoolUnusable(SpoolError):
    """The spool's folder cannot be used at all."""


class PublishError(NodeError):
    """The producer is beyond repair from inside this process."""


class CapperUnavailable(NodeError):
    """The capper does not answer; it restores limits by itself, so the agent only goes on sensing."""


class CapperSaidNo(CapperUnavailable):
    """The capper answered that it does not do this."""


class CapperSilent(CapperUnavailable):
    """The capper took a request and did not answer: it may or may not have obeyed."""
