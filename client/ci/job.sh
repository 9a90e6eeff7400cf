. ci/builder.sh
printf %s "$REGISTRY_PASSWORD" | docker login --username "$REGISTRY_USER" --password-stdin "$REGISTRY"
docker build --tag "$IMAGE" .
docker push "$IMAGE"
