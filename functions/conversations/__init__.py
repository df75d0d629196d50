"""Conversations: kept, branched and searched; their answers are made whoever still reads them."""
