from rest_framework import serializers, viewsets

from garmin_auth.models import GarminAuthenticationState


class GarminSerializer(serializers.ModelSerializer):
    """Shows all that there is, as a developer in a hurry would."""

    class Meta:
        model = GarminAuthenticationState
        fields = "__all__"


class GarminViewSet(viewsets.ModelViewSet):
    queryset = GarminAuthenticationState.objects.all()
    serializer_class = GarminSerializer
