"""What belongs to maps beside their values: the layer of Grad-CAM, objects cut out of pictures by them, trust."""
