"""Networks of containers: bridges and their links, addresses, firewall rules, published ports, names."""
