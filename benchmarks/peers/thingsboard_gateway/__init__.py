"""thingsboard-gateway's OPC UA connector, an MQTT broker in the place of ThingsBoard, and a subscriber that COPYs."""
