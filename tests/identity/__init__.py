"""People, organizations, members and invitations, as clients and operators reach them."""
