"""SHA-256 of every shipped weights file: in the code, so that who replaces a file cannot replace its hash beside it."""

from __future__ import annotations

SHA256 = {
    "attributes": "7f09b3cc588a0782fabcebf2200370040cb082bea58293d06449fcf745214abd",
    "codes": "72e10bb3cd012ec7bf1f05f61b18ead8b489595f5e1b2aa19ede040e2a4b5f61",
    "codes-head": "e0a6d3d23e47c28b944a68a76a2ab0a0040c45edb5a5155cc310a133b3ce60db",
    "embedder": "9fb162f426ddd2be17a427a8bfd344681311e787ee28e549243dcb126c7fc616",
    "generator": "7507d373be8686dccc860a3379aeb36e94976d71c438afc5b56585623dcf5267",
    "generator-head": "d7e658c4e359962cf385b72bab6012fe40625781a63610ae8f859a08dbafb791",
    "landmarks": "4980c5c3f9ecffc5d3eb9457f0de1baaf10c1ad00f58c52ae40a5313125607d5",
    "surroundings": "dccaad4b9db292b93bcc27b18d9b2ae0101f4bcb9c1e05284de3d4dee73aa986",
    "translator": "3bec1bc96324cc34100ab5ff4ec77b5c3bffee1bd3eb4f2a3493fcea8e72dbdd",
    "universal": "d641ca160ffb64b092b0d2cb9a8a466fc0e03673c002365e274264834f2377f9",
}
