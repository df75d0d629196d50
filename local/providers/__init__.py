"""A double of the outside providers: one server that answers as each of them documents.

    python -m local.providers --port 8500

Every provider has a path of its own (`/openai/v1`, `/anthropic/v1`, `/google/v1beta` ...). What a
key is treated like is chosen with the key: one that is not known is rejected. Shapes of requests,
answers and errors follow the API references of November 2026; texts and images are made up.
"""
