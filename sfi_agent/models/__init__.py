"""Models that come with sfi-agent: fetched from the package registry and converted once."""
