"""The networks. Each file holds one network and the pydantic model of its shape (`config.json` of its weights)."""
