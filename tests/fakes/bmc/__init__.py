"""A fake BMC: Redfish documents that the standard's own validator accepts, and the faults of real ones by name."""
