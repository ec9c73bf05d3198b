"""Errors of the contract: one tree, so that a reader can send everything undecodable to the dead-letter queue."""


class ContractError(ValueError):
    """A message does not keep the contract; its text names the value, the bound and the next step."""


class SchemaTooNew(ContractError):
    """The message was written by a later major version than this reader knows."""


class SignatureInvalid(ContractError):
    """The signature does not fit the canonical bytes, or its key is not in the key ring."""
