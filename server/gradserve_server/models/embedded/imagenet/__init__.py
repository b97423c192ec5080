"""The embedded model of photos, `imagenet`: the network; its weights come with a package of their own."""
